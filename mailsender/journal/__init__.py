"""What a process notes of letters in its hands, and what the notes of a dead one say."""
