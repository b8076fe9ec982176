"""States of OpenMM that travel between classical simulations and those that jump."""

from __future__ import annotations

from xml.etree import ElementTree

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.openmm.register import PHASE, TOKEN

with naming_extras(__name__):
    import openmm


def state_xml(context: openmm.Context) -> str:
    """The State of a Context without the parameters of the jump force, which a classical Context would refuse."""
    state = context.getState(positions=True, velocities=True, parameters=True, integratorParameters=True)
    root = ElementTree.fromstring(openmm.XmlSerializer.serialize(state))
    for node in root.iter("Parameters"):
        for name in (PHASE, TOKEN):
            node.attrib.pop(name, None)
    return ElementTree.tostring(root, encoding="unicode")


def set_state(context: openmm.Context, xml: str) -> None:
    """Set the State of a Context; where an integrator of another make left its parameters, without those.

    Raises
    ------
    OpenMMException
        If it is of another System.
    """
    try:
        context.setState(openmm.XmlSerializer.deserialize(xml))
    except openmm.OpenMMException:
        root = ElementTree.fromstring(xml)
        integrators = root.findall("IntegratorParameters")
        if not integrators:
            raise
        for node in integrators:
            root.remove(node)
        context.setState(openmm.XmlSerializer.deserialize(ElementTree.tostring(root, encoding="unicode")))
