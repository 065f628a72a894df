"""What five systems do for their users, done here: a file for each, through the public face only, on both backends."""
