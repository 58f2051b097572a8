"""What is trained on: sources of rows, their columns, the examples made of them and the batches made of those."""
