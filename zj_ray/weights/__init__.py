"""Weights in numbered versions: the trainer packs them and puts them into the object store once, every engine pulls."""
