"""A recogniser that other programs call: OpenAI's transcription API and Wyoming, beside the page."""
