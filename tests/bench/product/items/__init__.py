"""Things that users own."""
