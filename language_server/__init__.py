"""What an editor asks about IR: what is wrong, what a thing is, where it is made and used, what may follow."""
