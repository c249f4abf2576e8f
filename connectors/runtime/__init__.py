"""What all connectors share, written once."""
