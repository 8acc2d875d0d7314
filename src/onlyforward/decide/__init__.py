"""Decide under risk."""
