"""The transcription server for other programs: OpenAI's API and Wyoming."""
