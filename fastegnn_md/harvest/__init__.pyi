from .adapting import Adapted as Adapted
from .adapting import adapt as adapt
from .harvesting import harvest as harvest
