"""The paper's experiments: their settings, and running them so that nothing that was finished is done again."""
