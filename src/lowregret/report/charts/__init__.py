"""What is drawn: charts of a compare, of arms and of curves, in one theme. Altair, and no question of the study."""
