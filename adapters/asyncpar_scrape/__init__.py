"""Scraping jobs on asyncpar: pages are fetched on the loop, parsed on processes, and kept in one SQLite file.

fetcher    the client: Fetcher. Beside it: hosts and turns (politeness), robots, exchange and bodies (one request,
           within bounds), addresses, failures
page       what it gives: Page
crawler    the pipeline: Crawler
parsing    the worker's side: runs the parser
store      the frontier and the items, for the loop: a thread with the file
frontier   what is in the file
output     items as JSON lines, CSV, Parquet and SQLite
cli        the command
"""

from asyncpar_scrape.crawler import Crawler, CrawlStatistics
from asyncpar_scrape.failures import FetchError
from asyncpar_scrape.fetcher import Fetcher
from asyncpar_scrape.frontier import StoreError
from asyncpar_scrape.hosts import Hosts
from asyncpar_scrape.page import Page
from asyncpar_scrape.parsing import Link

__all__ = ["CrawlStatistics", "Crawler", "FetchError", "Fetcher", "Hosts", "Link", "Page", "StoreError"]
