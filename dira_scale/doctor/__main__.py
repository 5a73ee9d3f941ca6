from dira_scale.doctor import main

if __name__ == "__main__":
    raise SystemExit(main())
