"""Which videos there are: files, directories, globs, URLs, media cards."""
