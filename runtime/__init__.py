"""What a run of every stage needs: its folder, tracking, progress, resumable loading, the trainer."""
