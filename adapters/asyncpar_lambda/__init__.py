"""asyncpar on AWS Lambda."""
