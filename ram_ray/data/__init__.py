"""Shards and images: listing, reading, checking, decoding, preprocessing."""
