"""`onlyforward bench saliency`: maps of closed models against truths, enumeration and competitors at equal cost."""
