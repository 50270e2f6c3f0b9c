"""The flags of every command. Apart from what the commands do, so that help and wrong usage are said at once."""
