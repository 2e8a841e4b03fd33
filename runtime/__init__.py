"""What a run of every stage needs: its folder, tracking, progress, resumable loading, the trainer."""

from celltransfer import refuse_module

refuse_module(__name__)
