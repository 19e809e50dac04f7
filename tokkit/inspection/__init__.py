"""Looking at what the stages wrote: verifying it to the last byte, and showing it to people."""
