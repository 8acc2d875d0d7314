"""Agents: how a policy is improved from whole episodes."""
