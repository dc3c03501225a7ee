"""How far annotators agree: α, τ-b, drift, gold, quality; and the simulated ones that stand in for doctors."""
