"""What recipes and personal models share: pack a base and open one; both decide only where speech and results are."""
