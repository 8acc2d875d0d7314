"""Named data sets, readers of user files, and the networks that several applications share."""
