"""A model as a folder that Ollama takes: GGUF, and a Modelfile whose template is Go's instead of Jinja's."""
