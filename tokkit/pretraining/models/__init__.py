"""The architectures, their losses, and their names in Hugging Face folders."""
