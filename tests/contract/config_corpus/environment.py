a = '{{$MMX_CORPUS_A:}}'
b = '{{ $MMX_CORPUS_NOT_SET:default_value }}'
c = {{ $MMX_CORPUS_NOT_SET: 80 }}
d = '{{$MMX_CORPUS_NOT_SET:/data/coco/}}' + 'train.json'
e = {{$MMX_CORPUS_N:1}}
f = {{ $MMX_CORPUS_NOT_SET:'quoted' }}
g = '{{$MMX_CORPUS_A:x}}/{{$MMX_CORPUS_N:y}}'
