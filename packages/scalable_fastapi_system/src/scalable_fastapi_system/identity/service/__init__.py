"""What identity does, one module per use case. Functions take the session first and never commit."""
