"""Scraping jobs on asyncpar: pages are fetched on the loop, parsed on processes, and kept in one SQLite file.

crawler    the pipeline: Crawler
parsing    the worker's side: runs the parser
store      the frontier and the items, for the loop: a thread with the file
frontier   what is in the file
output     items as JSON lines, CSV, Parquet and SQLite
cli        the command
"""

from asyncpar_scrape.crawler import Crawler, CrawlStatistics
from asyncpar_scrape.frontier import StoreError
from asyncpar_scrape.parsing import Link

__all__ = ["CrawlStatistics", "Crawler", "Link", "StoreError"]
