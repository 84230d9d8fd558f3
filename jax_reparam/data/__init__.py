"""A prepared corpus as what is trained and verified on: protocols, features, batches, windows."""
