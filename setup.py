"""Packaging of enc-caffe; BVLC Caffe itself comes from ``make caffe`` (see README)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "enc_caffe" / "__init__.py").read_text()).group(1)
README = ROOT / "README.md"

EXTRAS = {
    "caffe": ["scikit-image>=0.20", "six>=1.16"],
    "demo": ["scikit-learn>=1.2"],
    "plot": ["matplotlib>=3.6"],
    "report": ["matplotlib>=3.6", "jinja2>=3.0"],
    "hdf5": ["h5py>=3.8"],
    "cluster": ["distributed>=2023.1", "dask>=2023.1"],
    "test": ["pytest>=7.2", "pytest-timeout>=2.1", "pytest-xdist>=3.3.1", "hypothesis>=6.60"],
    "dev": [
        "ruff>=0.17,<0.18",
        "mypy>=1.8",
        "types-protobuf>=4.24",
    ],
}
EXTRAS["all"] = sorted({package for group in EXTRAS.values() for package in group})

setup(
    name="enc-caffe",
    version=VERSION,
    description="Low-rank compression of whole Caffe networks (ENC-Map, ENC-Model, ENC-Inf)",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    license="BSD-2-Clause",
    python_requires=">=3.9",
    packages=find_packages(include=["enc_caffe", "enc_caffe.*"]),
    package_data={"enc_caffe.report": ["templates/*.j2"]},
    install_requires=[
        "numpy>=1.24",
        "scipy>=1.10",
        # protoc 3.21 writes caffe_pb2.py; Python protobuf reads such files from 4.21 up to the end of 5.x.
        "protobuf>=4.21.1,<6",
        "lmdb>=1.4",
        "opencv-python-headless>=4.7.0.72,<5",
        "rich>=13.0",
        "pooch>=1.7",
        'tomli>=2.0; python_version < "3.11"',
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["enc-caffe = enc_caffe.__main__:main"]},
    classifiers=["Programming Language :: Python :: 3"],
)
