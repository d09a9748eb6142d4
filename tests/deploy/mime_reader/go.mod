module mime_reader

go 1.21
