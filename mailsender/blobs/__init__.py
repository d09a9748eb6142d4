"""What letters carry: files, stored once however many letters name them."""
