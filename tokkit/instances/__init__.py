"""From token shards to training instances: pairs of segments, packed and masked.

``build`` (build.py, its options in build_config.py) opens the token folder and plans units
(build_plan.py). ``build_unit`` makes the instances of one unit: it reads documents
(document_reader.py), and makes of them pairs (pairs.py), packed sequences (packs.py) or texts with
their translations (translations.py), masks these if masks are static, and writes a shard.
"""
