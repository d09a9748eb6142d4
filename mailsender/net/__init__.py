"""What connections to servers share."""
