"""Compile this pipeline in place, as tickloom's own setup.py does its core. From the tree's root:

python bench/peers/setup.py build_ext --inplace
"""

from mypyc.build import mypycify
from setuptools import setup

FILES = ["bench/peers/codec.py", "bench/peers/work.py"]

setup(ext_modules=mypycify(FILES, opt_level="2", target_dir="build/peers", group_name="bench.peers.core"))
