"""Pure arrays: distance, linkage, tree, search, evidence, crowd, propagation. No torch, files or network."""
