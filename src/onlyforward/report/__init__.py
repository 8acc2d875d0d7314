"""What a reader sees: tables, figures, one self-contained HTML file."""
