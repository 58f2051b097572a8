"""Requests over HTTP, answered by one engine: a base and many adapters, by OpenAI's protocol."""
