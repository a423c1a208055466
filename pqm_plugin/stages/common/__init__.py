"""What several stages share: material, models, jobs, systems."""
