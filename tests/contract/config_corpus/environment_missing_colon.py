a = '{{$MMX_CORPUS_NOT_SET:}}'
