"""Recorded ticks: one file per format, each "a row in, a record out". No Kafka, no clock.

lean.py        LEAN tick zips: YYYYMMDD_quote.zip, YYYYMMDD_trade.zip
histdata.py    HistData generic ASCII ticks
truefx.py      TrueFX
dukascopy.py   .bi5
plain.py       any CSV with a header
file.py        opens, detects, reads row by row; merge.py puts many files into one order of time
"""
