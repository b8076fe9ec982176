from .harvesting import harvest as harvest
