"""Adapters added to a base's weights without a model in memory: tensor after tensor, and written shard after shard."""
