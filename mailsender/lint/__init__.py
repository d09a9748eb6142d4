"""What a mailbox provider would mind in a letter, or in a finished message. Pure."""
