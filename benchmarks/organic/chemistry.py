"""What is asked of the molecules of the lists, and what is found in them. Needs RDKit."""

from __future__ import annotations

from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

ELEMENTS = frozenset({"H", "C", "N", "O", "F", "S", "Cl"})
GROUPS = {
    "nitro": "[$([NX3+](=O)[O-]),$([NX3](=O)=O)]",
    "sulfonamide": "[#16](=O)(=O)[#7]",
    "epoxide": "[#6]1[#6][#8]1",
    "oxime": "[CX3]=[NX2;!R]-[OX2]",
    "acid": "C(=O)[OX2H1]",
    "acid-chloride": "C(=O)Cl",
    "alcohol": "[CX4][OX2H1]",
    "aldehyde": "[$([CX3H1](=O)[#6]),$([CX3H2]=O)]",
    "alkane": "[CX4;!R]([#6,#1])[CX4;!R]",
    "alkene": "C=C",
    "alkyne": "C#C",
    "amide": "[$([CX3H1](=O)[NX3]),$([CX3](=O)([#6])[NX3])]",
    "amidine": "[CX3](=[NX2])[NX3]",
    "amine": "[NX3;!$(N-C=[O,S,N]);!$(N-[a]);!$(N-[!#6;!#1]);!$(N-C#N);!$(N-C=C)]([CX4])",
    "anhydride": "C(=O)OC(=O)",
    "aniline": "[NX3;+0;!$(N-C=[O,S])]-c",
    "aryl-chloride": "c-Cl",
    "aryl-fluoride": "c-F",
    "azide": "[NX2]=[N+]=[N-]",
    "azo": "[#6]-N=N-[#6]",
    "benzene": "c1ccccc1",
    "carbamate": "[NX3]C(=O)[OX2]",
    "carbonate": "O=C([OX2])[OX2]",
    "chloroalkane": "[CX4]-Cl",
    "cumulene": "[CX2](=*)=*",
    "disulfide": "SS",
    "ester": "[$([CX3H1](=O)[OX2][#6]),$([CX3](=O)([#6])[OX2][#6])]",
    "ether": "[OX2]([CX4])[CX4,c]",
    "fluoroalkane": "[CX4]-F",
    "fused": "[R2]@[R2]",
    "heteroarene": "[n,o,s]",
    "hydrazine": "[NX3]-[NX3]",
    "hydrazone": "[CX3]=[NX2]-[NX3]",
    "hydroxylamine": "[NX3][OX2]",
    "imide": "C(=O)NC(=O)",
    "imine": "[CX3]=[NX2]-[#6,#1]",
    "ketone": "[#6][CX3](=O)[#6]",
    "n-oxide": "[#7+][O-]",
    "nitrile": "C#N",
    "phenol": "c[OX2H1]",
    "ring": "[R]",
    "sulfide": "[#6][SX2][#6]",
    "sulfone": "[#6]S(=O)(=O)[#6,O]",
    "sulfoxide": "[SX3](=O)",
    "sulfoximine": "S(=O)=[NX2]",
    "thiocarbonyl": "C=S",
    "thiol": "[SX2H1]",
    "urea": "[NX3]C(=O)[NX3]",
}
_PATTERNS = {name: Chem.MolFromSmarts(text) for name, text in GROUPS.items()}


def parse(smiles: str) -> Chem.Mol:
    """Read a SMILES and check that it is one neutral closed-shell molecule of the elements of the lists."""
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None or "." in smiles:
        raise ValueError(f"{smiles} is not the SMILES of one molecule")
    full = Chem.AddHs(molecule)
    strange = {atom.GetSymbol() for atom in full.GetAtoms()} - ELEMENTS
    if strange:
        raise ValueError(f"{smiles} has {', '.join(sorted(strange))}; the lists have {', '.join(sorted(ELEMENTS))}")
    if Chem.GetFormalCharge(full) or any(atom.GetNumRadicalElectrons() for atom in full.GetAtoms()):
        raise ValueError(f"{smiles} is charged or has unpaired electrons")
    return full


def columns(smiles: str) -> tuple[str, int, str]:
    """Formula, number of atoms with hydrogens, and functional groups of a SMILES."""
    full = parse(smiles)
    bare = Chem.RemoveHs(full)
    found = sorted(name for name, pattern in _PATTERNS.items() if bare.HasSubstructMatch(pattern))
    return CalcMolFormula(full), full.GetNumAtoms(), ",".join(found)


def canonical(smiles: str) -> str:
    """The same text for the same molecule, without its handedness."""
    return Chem.MolToSmiles(Chem.MolFromSmiles(smiles), isomericSmiles=False)
