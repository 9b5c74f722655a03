"""Every performance and quality figure in the docs comes from a command here."""
