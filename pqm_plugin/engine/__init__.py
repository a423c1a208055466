"""What recipes and personal models share: pack and open a base, train adapters; callers choose speech and output."""
