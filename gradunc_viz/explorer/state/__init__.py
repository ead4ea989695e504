"""What is being looked at, without any drawing."""
