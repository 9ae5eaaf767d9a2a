"""Any folder in MVTec-AD's layout: <category>/{train/good,test/<good or defect>,ground_truth/<defect>}.

A category without the folder ground_truth is taken as labelled by image only: its pixel metrics are not defined.
"""

from mddbench.data.samples import DatasetSource
from mddbench.data.tree import read_tree

DATASET = DatasetSource(
    description="any folder in MVTec-AD's layout (masks optional by category)",
    read=lambda root: read_tree(root, masks_required=False),
)
