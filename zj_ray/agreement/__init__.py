"""How far annotators agree: α, τ-b, drift, gold, quality; and the simulated annotators that stand in for doctors."""
